"""Published layouts are read as they are; what is missing is named with the fix."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.errors import ConfigError
from data.benchmarks import customconcept, dreambench_plus, dreambooth
from data.benchmarks.base import labels
from data.benchmarks.readers import read_benchmark

OBJECT_PROMPTS = ["a {0} {1} in the jungle", "a {0} {1} on top of a mirror", "a cube shaped {0} {1}"]
LIVE_PROMPTS = ["a {0} {1} in the jungle", "a {0} {1} wearing a red hat", "a shiny {0} {1}"]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(path)


def prompt_list(prompts: list[str]) -> str:
    lines = [f"'{prompt}'.format(unique_token, class_token)" for prompt in prompts]
    return "prompt_list = [\n" + ",\n".join(lines) + "\n]\n"


def dreambooth_folder(folder: Path, objects: list[str] = OBJECT_PROMPTS) -> Path:
    for subject in ("rc_car", "cat2"):
        for name in ("02.jpg", "00.jpg"):
            picture(folder / subject / name)
    (folder / dreambooth.LIST).write_text(
        "Classes\n\nsubject_name,class\nrc_car,toy\ncat2,cat\n\nPrompts\n\nObject Prompts\n\n"
        f"{prompt_list(objects)}\nLive Subject Prompts\n\n{prompt_list(LIVE_PROMPTS)}"
    )
    return folder


def test_dreambooth_gives_each_subject_the_prompts_of_its_class(tmp_path: Path) -> None:
    cat, car = read_benchmark("dreambooth", dreambooth_folder(tmp_path))
    assert (car.object_id, car.category, car.phrase) == ("rc_car", "toy", "toy car")
    assert [path.name for path in car.references] == ["00.jpg", "02.jpg"]
    assert [(prompt.text, prompt.kind) for prompt in car.prompts] == [
        ("a toy in the jungle", "background"),
        ("a toy on top of a mirror", "background"),
        ("a cube shaped toy", "property"),
    ]
    assert (cat.object_id, cat.phrase) == ("cat2", "cat")
    assert [(prompt.text, prompt.kind) for prompt in cat.prompts] == [
        ("a cat in the jungle", "background"),
        ("a cat wearing a red hat", "property"),
        ("a shiny cat", "property"),
    ]


def test_dreambooth_has_twenty_five_prompts_for_objects_and_for_live_subjects() -> None:
    known = labels("dreambooth")
    # The first ten backgrounds and the first five properties are shared; the rest belongs to one list each.
    assert (len(known["background"]), len(known["property"])) == (20, 15)
    assert len(set(known["background"]) | set(known["property"])) == 35
    assert all(template.count("{}") == 1 for template in (*known["background"], *known["property"]))


def test_a_dreambooth_prompt_without_label_is_refused_with_the_table_to_extend(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"the prompt 'a \{\} on the moon' is not labelled; add it .*dreambooth\.yaml"
    ):
        dreambooth.read(dreambooth_folder(tmp_path, ["a {0} {1} on the moon"]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / dreambooth.LIST).unlink(), "prompts_and_classes.txt: missing; point evaluate"),
        (lambda folder: (folder / dreambooth.LIST).write_text("Classes\n"), "no line SUBJECT,CLASS|list of prompts"),
        (lambda folder: [path.unlink() for path in (folder / "cat2").iterdir()], "cat2: no pictures"),
    ],
)
def test_what_dreambooth_lacks_is_named(tmp_path: Path, spoil, message: str) -> None:
    folder = dreambooth_folder(tmp_path)
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        dreambooth.read(folder)


def customconcept_folder(folder: Path, prompts: str = "photo of a {}.\n{} oil painting ghibli inspired.\n") -> Path:
    picture(folder / "benchmark_dataset" / "plushie_cow" / "1.jpeg")
    (folder / "prompts").mkdir()
    (folder / "prompts" / "plushie.txt").write_text(prompts)
    entry = {
        "instance_prompt": "photo of a <new1> cow plushie",
        "class_prompt": "cow plushie",
        "instance_data_dir": "./benchmark_dataset/plushie_cow",
        "class_data_dir": "./regularization/plushie_cow",
        "prompt_filename": "prompts/plushie.txt",
    }
    (folder / customconcept.LIST).write_text(json.dumps([entry]))
    return folder


def test_customconcept_fills_the_class_into_its_prompts(tmp_path: Path) -> None:
    (found,) = read_benchmark("customconcept101", customconcept_folder(tmp_path))
    assert (found.object_id, found.category, found.phrase) == ("plushie_cow", "cow plushie", "cow plushie")
    assert [(prompt.text, prompt.kind) for prompt in found.prompts] == [
        ("photo of a cow plushie.", "background"),
        ("cow plushie oil painting ghibli inspired.", "property"),
    ]
    assert found.references == (tmp_path / "benchmark_dataset" / "plushie_cow" / "1.jpeg",)


@pytest.mark.parametrize(
    "line",
    [
        "An orange {}.",
        "A pink {}.",
        "A red color {}.",
        "A blue velvet {} is lying on the sofa.",
        "a red and white {} on a shelf",
        "The {} is red.",
        "A futuristic {}.",
        "a snow-covered {} in a forest",
        "A {} with crystal-clear glass, revealing its mechanical parts.",
        "a {} with golden stripes",
        "a {} with doors made of glass",
        "{} in neon colors",
        "A {} made of crystal.",
        "a {}, carved from a piece of driftwood",
        "The {}, steampunk aesthetic, adorned with gears and metallic accents.",
        "Georgia O'Keeffe style {} painting.",
        "a backpack in the style of {}",
        "a {}-shaped cake",
        "{} oil painting ghibli inspired.",
        "A detailed 3D rendering of {}.",
        "A digital rendering of the {}.",
        "A pointillism representation of {}.",
        "a watercolor of an old man with the {}",
        "A screaming {}.",
        "a sad {}.",
        "{} wearing sunglasses.",
        "{} in an astronaut suit, floating in a spaceship.",
        "a {} in chef outfit.",
        "{} dressed as a knight, standing in a medieval castle.",
        "{} as Neo in the matrix movie.",
        "{} as Italian chef",
    ],
)
def test_a_customconcept_prompt_that_alters_its_object_is_of_a_property(line: str) -> None:
    assert customconcept.kind_of(line) == "property"


@pytest.mark.parametrize(
    "line",
    [
        "{} in grand canyon.",
        "{} swimming in a pool.",
        "a surreal landscape, {}",
        "In a house of glass, {} stands.",
        "{} with steaming coffee",
        "{} with a glass of water",
        "{} in the saddle of a horse",
        "{} as seen from above",
        "{} as the sun sets",
        "{} in a suitcase",
        "{} in an art gallery",
        "A {} painting a fence.",
        "{} made by hand in a workshop",
        # Looks of another thing.
        "a {} on a red carpet",
        "a {} next to a blue house",
        "a red bird on the {}",
        "{} and an orange sofa.",
        "{} on a rustic wooden bench in a cherry blossom garden.",
        "{} on a bench made of stone",
        "{} in front of a Victorian-style house",
        "{} in a Japanese-inspired garden",
        "{} next to a painting of a ship",
        "a mural of a whale behind the {}",
        "a laughing Buddha statue in {}",
        "{} next to a sleeping puppy",
        "A {} beside an antique pocket watch on a desk.",
        "{} holding a futuristic sword",
        # Another one wears it, or something else.
        "a futuristic robot wearing {}",
        "{} next to a person wearing a hat",
        "{} beside a man dressed as a knight",
        "{} in a pile of clothes",
    ],
)
def test_a_customconcept_prompt_that_alters_what_is_around_its_object_is_of_the_background(line: str) -> None:
    assert customconcept.kind_of(line) == "background"


def test_words_for_customconcept_agree_with_the_table_of_dreambooth() -> None:
    known = labels("dreambooth")
    for kind in ("background", "property"):
        assert {template: customconcept.kind_of(template) for template in known[kind]} == dict.fromkeys(
            known[kind], kind
        )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / customconcept.LIST).write_text("{"), "dataset.json: not JSON"),
        (lambda folder: (folder / customconcept.LIST).write_text("[{}]"), "entry 0 has no class_prompt"),
        (lambda folder: (folder / "prompts" / "plushie.txt").unlink(), "plushie.txt: missing; point evaluate"),
        (
            lambda folder: (folder / "prompts" / "plushie.txt").write_text("a dog\n"),
            r"'a dog' has no \{\} for the class",
        ),
        (lambda folder: (folder / "benchmark_dataset" / "plushie_cow" / "1.jpeg").unlink(), "benchmark_dataset.zip"),
    ],
)
def test_what_customconcept_lacks_is_named(tmp_path: Path, spoil, message: str) -> None:
    folder = customconcept_folder(tmp_path)
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        customconcept.read(folder)


def dreambench_folder(folder: Path) -> Path:
    for place in ("live_subject/animal/00", "object/03", "style/01"):
        picture(folder / "images" / f"{place}.jpg")
        path = folder / "captions" / f"{place}.txt"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(["kitten", *(f"caption {number}" for number in range(9))]))
    return folder


def test_dreambench_plus_gives_objects_with_one_reference_and_no_styles(tmp_path: Path) -> None:
    animal, thing = read_benchmark("dreambench_plus", dreambench_folder(tmp_path))
    assert (animal.object_id, thing.object_id) == ("animal-00", "object-03")
    assert animal.references == (tmp_path / "images" / "live_subject" / "animal" / "00.jpg",)
    assert (animal.category, animal.phrase) == ("kitten", "kitten")
    assert [prompt.text for prompt in animal.prompts] == [f"caption {number}" for number in range(9)]
    assert [prompt.kind for prompt in animal.prompts] == ["background"] * 4 + ["property"] * 5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "images/object/03.jpg").unlink(), "03.jpg: missing, and .*03.txt describes it"),
        (
            lambda folder: (folder / "captions/object/03.txt").write_text("dog\none"),
            "2 lines; needed: the subject and 9",
        ),
    ],
)
def test_what_dreambench_plus_lacks_is_named(tmp_path: Path, spoil, message: str) -> None:
    folder = dreambench_folder(tmp_path)
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        dreambench_plus.read(folder)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("dreambooth", "customconcept101", "dreambench_plus"):
        with pytest.raises(ConfigError, match=r"point evaluate\.benchmark_folder at"):
            read_benchmark(name, tmp_path)


def test_an_object_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    folder = customconcept_folder(tmp_path)
    entries = json.loads((folder / customconcept.LIST).read_text())
    (folder / customconcept.LIST).write_text(json.dumps(entries * 2))
    with pytest.raises(ConfigError, match="listed twice, for example plushie_cow"):
        read_benchmark("customconcept101", folder)
