"""Two floods that a paper names without dates or areas: what is offered here is inferred, and says so."""

from dataclasses import dataclass

from sartransfer.fetch.request import Area, Period, parse_box, parse_period

# Hatami Goloujeh, "Exploring cross-modality transfer learning: fine-tuning optical pre-trained models on SAR imagery".
PAPER = "inferred: the paper names the flood and the month, neither dates nor an area"


@dataclass(frozen=True, slots=True)
class FloodPreset:
    """Dates and an area for a flood, with the reasons for them."""

    title: str
    box: str
    """west,south,east,north in degrees."""
    before_dates: str
    after_dates: str
    orbit_pass: str
    reasons: tuple[str, ...]

    @property
    def area(self) -> Area:
        """The box."""
        return parse_box(self.box)

    @property
    def before(self) -> Period:
        """From which the image before is taken."""
        return parse_period(self.before_dates)

    @property
    def after(self) -> Period:
        """From which the image during the flood is taken."""
        return parse_period(self.after_dates)

    @property
    def note(self) -> str:
        """What the provenance says of it."""
        return f"{self.title}; {PAPER}. " + " ".join(self.reasons)


PRESETS: dict[str, FloodPreset] = {
    "valencia": FloodPreset(
        "Valencia, October 2024",
        box="-0.62,39.10,-0.20,39.55",
        before_dates="2024-10-07/2024-10-28",
        after_dates="2024-10-30/2024-11-11",
        orbit_pass="descending",
        reasons=(
            "The storm fell on 29 October 2024 and flooded l'Horta Sud, the Albufera and the lower Ribera: the box.",
            "Only Sentinel-1A flew then, every 12 days an orbit: 13 days after the storm hold one pass of each orbit, "
            "three weeks before it one or two.",
            "Descending, as the paper says.",
            "Rice fields round the Albufera are flooded on purpose from November on: not all change there is damage.",
        ),
    ),
    "mississippi": FloodPreset(
        "Mississippi, May 2019",
        box="-91.15,32.40,-90.45,33.10",
        before_dates="2018-10-01/2018-11-10",
        after_dates="2019-05-12/2019-06-05",
        orbit_pass="descending",
        reasons=(
            "The longest flood was that of the Yazoo backwater above Vicksburg, highest in late May 2019: the box.",
            "It had begun in February, so the image before must be of the autumn: fields were bare or ripe then and "
            "green in May, which changes backscatter too.",
            "Descending, as the paper says.",
            "The paper may mean another reach of the river: give --area for that.",
        ),
    ),
}  # fmt: skip
