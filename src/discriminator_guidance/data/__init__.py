"""Images in and out, complete files, resumable work."""
