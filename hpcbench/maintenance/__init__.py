"""Looking after stores: verifying, repairing, merging, comparing."""
