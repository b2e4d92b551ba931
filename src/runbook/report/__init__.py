"""Events made visible: text for people, JSON lines for programs."""
