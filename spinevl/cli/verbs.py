"""The verbs and what each is for; imports nothing, so that every module may know them."""

VERBS = {
    "build": "record files from labels, boxes and images",
    "train": "fine-tune a model on a study",
    "predict": "answers of a checkpoint",
    "evaluate": "score answers against labels",
    "report": "the scores and the report for a checkpoint that is there already",
    "export": "a checkpoint for other programs: MedM-VL, transformers, peft",
    "run": "build, train, predict, evaluate and report in one job",
    "leaderboard": "the leaderboard of a sweep, also while it runs",
    "playground": "a page in the browser that asks a checkpoint",
    "fetch": "download models and tokenizers for nodes without network",
    "doctor": "check every input before any training time is spent",
}

# of which there is no sweep
ALONE = ("leaderboard", "playground")
