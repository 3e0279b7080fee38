"""Pages that show texts from outside run none of them, even without the policy that forbids scripts on them."""

import re

import pytest
from report_artifacts import recipe_of, report_context, write_run
from study_objects import ROWS, evaluated

from flows.ablation.page import Figures, Mark, Part, as_html, draw
from models.evaluation.study import make_questions, page_of, practice_questions
from tasks import report

pytestmark = pytest.mark.browser
RUN = "window.pwned = true"
ATTACKS = (
    f"</script><script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"'><svg onload='{RUN}'>",
    f'--><iframe srcdoc="<script>parent.{RUN.removeprefix("window.")}</script>">',
    f"{{{{ {RUN} }}}}${{{RUN}}}\\u003cscript\\u003e{RUN}\\u003c/script\\u003e",
    "|`*_[x](javascript:1)\n# line\r\x1b[2J\u2028\u202e",
)
ALL = " ".join(ATTACKS)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def report_page(folder):
    recipe, failed = recipe_of(), [("cup", "corrupt", ALL[:1900]), ("hat", "corrupt", "\n".join(ATTACKS))]
    rejected = [{"id": "x", "reason": "licence_unknown", "detail": ALL, "uri": ALL}]
    prompt = "a {name} " + ALL.replace("{", "{{").replace("}", "}}")
    write_run(folder, recipe, prompt=prompt, failed={"assets": failed}, rejected=rejected)
    (folder / "out").mkdir()
    report.finalize(report_context(folder, recipe), None, folder / "out")
    return (folder / "out" / report.PAGE).read_text()


def study_page(folder):
    objects = [evaluated("mug-a", "mug", 0, text=ALL), evaluated("chair-a", "chair", 20, text=ALL)]
    practice, questions = practice_questions(objects, 2, 0), make_questions(objects, ROWS, 3, 2, 0)
    return page_of(practice, questions, "0" * 64, ALL)


def ablation_page(folder):
    picture = draw(Figures({"identity": {"row": Mark(0.5, 0.4, 0.6)}}))
    return as_html(ALL, ALL, [Part(attack, [attack, "b"], [[attack, ALL]], picture) for attack in ATTACKS])


@pytest.mark.parametrize("page_of_text", [report_page, study_page, ablation_page])
def test_texts_from_outside_are_shown_and_not_run(browser, tmp_path, page_of_text):
    text = page_of_text(tmp_path)
    assert ATTACKS[0] not in text and ATTACKS[1] not in text and ATTACKS[2] not in text
    path = tmp_path / "page.html"
    path.write_text(POLICY.sub("", text), encoding="utf-8")
    page = browser.new_page()
    asked = []
    page.on("request", lambda one: asked.append(one.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("load")
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert page.evaluate("window.pwned") is None
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
    assert page.evaluate("document.querySelectorAll('iframe, [onerror], [onload], a[href^=javascript]').length") == 0
    page.close()
