"""Data sets: images as uint8 on the device, or streamed from folders."""
