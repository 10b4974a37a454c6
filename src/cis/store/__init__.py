"""The store: its port, its records, its databases."""
