"""Stands for the process of a stage, whose name says what becomes of it: FOLDER --stage NAME."""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Writes two rows, and hangs, fails or ends as the stage is named."""
    folder, _, name = sys.argv[1:]
    result = {"rows": [1, 2], "complete": name == "whole", "tiny": False}
    Path(folder, f"{name}.json").write_text(json.dumps(result))
    if name == "hangs":
        time.sleep(60)
    if name == "fails":
        sys.exit("a reason")


if __name__ == "__main__":
    main()
