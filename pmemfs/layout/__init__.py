"""Every record on the device, declared once, and the arithmetic between them."""
