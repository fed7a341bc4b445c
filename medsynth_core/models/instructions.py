"""Instructions for a pretrained language model, in paraphrases, so that it doesn't hang on one wording.

A model trained from scratch has nothing to gain from them: its task marker says the same in one token.
"""

SYNTHESISE = (
    "Draw the chest radiograph that this report describes.",
    "Generate a chest X-ray with the findings below.",
    "Produce the radiograph that belongs to the following report.",
    "Create a chest X-ray image that matches this description.",
    "Show what the radiologist saw when writing this report.",
    "Render the chest film for these findings.",
    "Turn the report into the corresponding chest radiograph.",
    "Synthesise a chest X-ray that agrees with the text.",
    "Give the image tokens of a chest film with these findings.",
    "Depict the following findings as a chest X-ray.",
)
"""Report to image; the first is the one that synthesis uses."""

DESCRIBE = (
    "Write the report of this chest radiograph.",
    "Describe the findings in this chest X-ray.",
    "Report what the following chest film shows.",
    "State the findings of this radiograph.",
    "What does this chest X-ray show?",
)
"""Image to report."""
