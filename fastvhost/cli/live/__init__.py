"""`fastvhost top`: what it shows (rows, drops), what its user chose (choice, keys), how it looks (columns, picture)."""
