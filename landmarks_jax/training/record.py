"""What is recorded of a run besides its configuration."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Transfer(NamedTuple):
    """A point where a run continued from transfer files, without its optimiser.

    Attributes:
      step: steps done before.
      seconds: time trained before, over all sessions.
      warmup_steps: steps over which the learning rate rose again; 0 before the first step.
      other_photos: whether the list of photos changed.
      new_targets: whether the targets of self-training were made again.
      changes: fields of the configuration that changed, with both values.
    """

    step: int
    seconds: float
    warmup_steps: int
    other_photos: bool
    new_targets: bool
    changes: Sequence[str]

    def note(self) -> str:
        """The note for the run's tables."""
        warmup = ""
        if self.warmup_steps:
            warmup = f", the learning rate rising again over {self.warmup_steps:,} steps"
        parts = [
            f"transferred, not resumed, at step {self.step:,} after {self.seconds / 60:.1f} "
            f"minutes: networks rounded to float16, a fresh optimiser{warmup}"
        ]
        if self.other_photos:
            parts.append("the photos were renamed or replaced")
        if self.new_targets:
            parts.append("the targets were made again, from its own points")
        return "; ".join([*parts, *self.changes])


@dataclasses.dataclass(frozen=True)
class Record:
    """Facts about a run besides its configuration.

    Attributes:
      data_digest: fingerprint of the list of photos, "" for imported networks.
      weights_digest: fingerprint of VGG's weights, "" without any.
      init: how the run began, as `init_from` writes it.
      notes: notes for every table of the run.
      hardware: what the run was trained on, without repetition.
      transfers: where it continued from transfer files, in order.
    """

    data_digest: str
    weights_digest: str
    init: Mapping[str, str]
    notes: Sequence[str] = ()
    hardware: Sequence[str] = ()
    transfers: Sequence[Transfer] = ()

    def all_notes(self) -> list[str]:
        """The notes for tables, including those of the transfers."""
        return [*self.notes, *(transfer.note() for transfer in self.transfers)]

    def to_json(self) -> dict[str, Any]:
        """Converts the record to plain JSON."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "transfers": [transfer._asdict() for transfer in self.transfers],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Record":
        """The record that `to_json` converted; KeyError or TypeError if it has other fields."""
        transfers = [Transfer(**transfer) for transfer in fields["transfers"]]
        return cls(**{**fields, "transfers": transfers})
