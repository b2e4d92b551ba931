"""The contract of a step type: the class, the types of its fields, the state that it keeps.

What an author of a step type must know is here; a YAML file becomes objects in `document`.
"""
