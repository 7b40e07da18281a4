"""What is recorded of a run besides its configuration."""

import dataclasses
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from landmarks_jax.system.errors import WorkdirError


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
    def from_json(cls, fields: Any, path: Path) -> "Record":
        """Parses the output of `to_json`.

        Raises:
          WorkdirError: naming `path`, the file it was read from.
        """
        _check(fields, _RULES, str(path))
        for place, transfer in enumerate(fields["transfers"]):
            _check(transfer, _TRANSFER_RULES, f"{path}: transfers[{place}]")
        transfers = [Transfer(**transfer) for transfer in fields["transfers"]]
        return cls(**{**fields, "transfers": transfers})


# What a field must be, in words, and whether a value is that.
_Rule = tuple[str, Callable[[Any], bool]]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


_RULES: dict[str, _Rule] = {
    "data_digest": ("a text", _is_text),
    "weights_digest": ("a text", _is_text),
    "init": ("texts by name", lambda v: isinstance(v, dict) and _are_texts([*v.values()])),
    "notes": ("a list of texts", _are_texts),
    "hardware": ("a list of texts", _are_texts),
    "transfers": ("a list", lambda v: isinstance(v, list)),
}
_TRANSFER_RULES: dict[str, _Rule] = {
    "step": ("a whole number", _is_count),
    "seconds": ("a number from 0", lambda v: _is_count(v) or (type(v) is float and 0 <= v < 1e18)),
    "warmup_steps": ("a whole number", _is_count),
    "other_photos": ("true or false", lambda v: isinstance(v, bool)),
    "new_targets": ("true or false", lambda v: isinstance(v, bool)),
    "changes": ("a list of texts", _are_texts),
}


def _check(fields: Any, rules: Mapping[str, _Rule], where: str) -> None:
    """Raises WorkdirError unless the fields are those of the rules, and follow them."""
    if not isinstance(fields, dict):
        raise WorkdirError(f"{where}: not the record of a run, but {reprlib.repr(fields)}")
    if odd := sorted(fields.keys() ^ rules.keys()):
        problem = "is missing" if odd[0] in rules else "is unknown"
        raise WorkdirError(f"{where}: not the record of a run ({odd[0]} {problem})")
    for name, (rule, is_valid) in rules.items():
        if not is_valid(fields[name]):
            raise WorkdirError(f"{where}: {name} = {reprlib.repr(fields[name])}: must be {rule}")
