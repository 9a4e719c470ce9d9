"""Results on the disk: segments, the consolidated store, reading and exporting."""
