from data.records import Prompt, PromptRecord, Rejected
from models.prompts.coverage import as_markdown, coverage


def record(object_id: str, caption: str, category: str, *prompts: tuple[str, str], rejected: int = 0) -> PromptRecord:
    return PromptRecord(
        object_id=object_id,
        split="train",
        category=category,
        caption=caption,
        writer="test",
        prompts=[Prompt(text=text, kind=kind) for kind, text in prompts],
        rejected=[Rejected(text="x", reason="no_object")] * rejected,
    )


RECORDS = [
    record("a", "a red mug", "mug", ("scene", "A red mug on a beach."), ("style", "a drawing of a mug"), rejected=2),
    record("b", "a blue hat", "hat", ("scene", "a blue hat on a beach"), ("scene", "a blue hat in a very dark forest")),
    record("c", "a red mug", "mug", ("scene", "a red mug on a  Beach")),
]


def test_kinds_lengths_and_what_objects_share_are_counted() -> None:
    covered = coverage(RECORDS)
    assert covered["objects"] == 3 and covered["captions"] == 4
    assert covered["kinds"]["scene"] == {
        "prompts": 4,
        "objects": 3,
        "per_object": {"min": 1, "mean": 1.33, "max": 2},
        "words": {"min": 6, "mean": 6.5, "max": 8},
    }
    assert covered["kinds"]["style"]["objects"] == 1
    assert covered["shared_captions"] == 1
    assert covered["shared_contexts"] == 1 and covered["most_shared"] == [["* on a beach", 3]]
    assert covered["rejected"] == {"no_object": 2}


def test_the_page_says_it_all_and_an_empty_dataset_is_no_error() -> None:
    page = as_markdown(coverage(RECORDS))
    assert "| scene | 4 | 3 | 1 - 1.33 - 2 | 6 - 6.5 - 8 |" in page
    assert "3 objects: * on a beach" in page and "no_object 2" in page
    assert "0 objects" in as_markdown(coverage([]))
