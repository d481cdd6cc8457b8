"""What was seen, and whether the invariants of a write router hold in it. Nothing here runs a
process.
"""
