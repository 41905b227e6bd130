"""What of an image a network's answer rests on, and how sure it is. Computed where the image lies, never elsewhere."""
