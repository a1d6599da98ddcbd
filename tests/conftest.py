"""For all tests: a property that takes long on a busy machine is no less true."""

from hypothesis import settings

settings.register_profile("podlane", deadline=None)
settings.load_profile("podlane")
