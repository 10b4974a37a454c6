"""State as it looks from outside: views, reasons for waiting, logs."""
