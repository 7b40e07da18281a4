"""Detection in image and video files and from cameras, with result files and drawings."""
