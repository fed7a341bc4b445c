"""CheXGenBench's protocol for generators of chest radiographs (R. Dutt et al., *CheXGenBench: a unified benchmark for
fidelity, privacy and utility of synthetic chest radiographs*, arXiv:2505.10496).

``protocol`` has its constants, each with the file of github.com/Raman1121/CheXGenBench that it follows; ``tables``
reads its files; ``sides`` finds the images that are compared; ``networks`` those that look at them; ``making`` makes
images of its prompts; ``fidelity``, ``alignment`` and ``reidentified`` measure; ``rows`` writes in its format; ``run``
is all of it. Not here: its radiomics distance (FRD), and its downstream trainings.
"""
