"""Object stores, a module each, called like the scheme of its URLs; ``local`` is that of paths."""
