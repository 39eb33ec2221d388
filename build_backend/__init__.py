"""How lightops is built: the in-tree PEP 517 backend and the native build it drives."""
