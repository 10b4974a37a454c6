"""What only Linux has: heirs of descendants, stamps on processes, time slices. Each has a portable fallback."""
