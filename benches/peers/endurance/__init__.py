"""The soak: regions that die, clients that misbehave, a configuration that changes, and what is
left of it all.
"""
