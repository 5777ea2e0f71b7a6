"""What everything else rests on: errors, settings, noise levels, images, files and the machine."""
