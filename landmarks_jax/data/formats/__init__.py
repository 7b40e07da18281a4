"""Formats of other programs: labelled points read, found points written; one module each."""
