"""Front ends: arguments in, reply or errno out, and no file-system logic."""
