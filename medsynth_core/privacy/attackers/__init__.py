"""Who tries to tell training patients by the images, one a module; an entry of ``privacy.attackers`` names one:
``NAME`` or ``NAME:PLACE``.

Each module has ``attack(place: str, sides: Sides) -> Attack``. Who compares images in a space of its own returns
``in_space(sides.space(name, metric, embed), seed)`` and has all the figures of one. A module may have

- ``PLACE``, "needed" or "optional", where something stands after the colon; without it nothing may;
- ``check(place, paths)``, called before any work, which raises a MedsynthError where it can't attack;
- ``inputs(place, params, paths)``, which returns what its figures follow from beside images, corpus and models, as
  JSON has it: the digest of a file, a section of its own. A module without follows from nothing else.
"""
