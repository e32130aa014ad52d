"""Side-by-side measurements of the loss against its peers."""
