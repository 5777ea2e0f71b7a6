"""The template of `dvc plots` draws one line for each member and revision from curves.csv."""

from __future__ import annotations

from dvc_render.vega import VegaRenderer

from discriminator_guidance.report.gather import gather
from discriminator_guidance.report.records import curves_frame
from tests.report.conftest import MEMBERS, PROJECT, Maker


def test_template_is_filled_by_dvc_and_names_columns_that_exist(make_inputs: Maker) -> None:
    points = curves_frame(gather(make_inputs())).assign(rev="workspace").to_dict("records")
    renderer = VegaRenderer(
        points,
        "loss",
        x="epoch",
        y="loss",
        template=str(PROJECT / ".dvc" / "plots" / "members.json"),
        title="Loss",
    )
    filled = renderer.get_filled_template()
    assert "<DVC_METRIC" not in str(filled)
    encoding = filled["spec"]["encoding"]
    fields = {name: encoding[name]["field"] for name in ("x", "y", "color", "strokeDash")}
    assert fields == {"x": "epoch", "y": "loss", "color": "member", "strokeDash": "rev"}
    assert filled["facet"]["column"]["field"] == "split"
    assert {*fields.values(), "split"} <= set(points[0])
    assert {point["member"] for point in filled["data"]["values"]} == set(MEMBERS)
