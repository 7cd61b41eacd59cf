"""Evidence as a controller holds it: read where it changed, added up once, unpacked where somebody asks."""
