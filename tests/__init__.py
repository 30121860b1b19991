"""The tests of fastvhost."""
