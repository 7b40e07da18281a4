"""Landmarks of files, folders, videos and a camera, written to disk as they are found."""
