"""The machine: `interface` is the contract, `local` fulfils it for the machine this program runs on.

`facts`, `holders` and `queries` are the data that cross it. What the data means for a step belongs in `checks`.
"""
