"""Labels that come later: taking them in, joining them to predictions, and folding both into evidence."""
