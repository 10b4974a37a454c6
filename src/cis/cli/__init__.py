"""The command ``cis``: parse, one call, render."""
