"""Pages of the documentation that are made from the code, so that they cannot say what it does not do."""
