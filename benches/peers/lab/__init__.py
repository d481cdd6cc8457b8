"""The bench itself: processes, ports, load and the backend. It knows no proxy."""
