"""Every figure and table of the paper: what it shows, and what in this project gives it.

Source: Aw et al. 2023, arXiv 2312.00575v2 (9 August 2024): Figures 1 to 9, Tables 1 to 10, by panel where panels show
different things. The descriptions are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["reproduced", "reproducible with weights", "not given"]
# "reproduced": from the paper's own tables or the table of models, without weights. "not given": a drawing or example,
# or values that the paper does not print.
FIGURES, TABLES = tuple(range(1, 10)), tuple(range(1, 11))


class Content(NamedTuple):
    """A figure, a panel of one, or a table.

    Attributes:
        label: such as "Figure 1B".
        shows: what it shows.
        status: whether this project gives it.
        by: the command and table that give it; or why nothing does.
        table: number of the paper's table whose values are compared with ours, model by model; "" if there are none.
    """

    label: str
    shows: str
    status: Status
    by: str
    table: str = ""


class PrintedFigure(NamedTuple):
    """A number printed in the paper, its value from the paper's tables, and the reason for a difference if known.

    `where` it is printed: labels in `CONTENTS`, separated by commas.
    """

    label: str
    printed: float
    recomputed: float
    digits: int
    where: str
    remark: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the recomputed value equals the printed one at the printed precision."""
        return bool(abs(round(self.recomputed, self.digits) - self.printed) < 0.5 * 10**-self.digits)


_PAPER_RUN = "`harness run paper`"
_ABLATION = (
    "curves without a table of values: `harness tune llama-7b`, `harness watch`; tables trajectories, trajectory_tests"
)
_PRINTED = "`harness compare paper`, statements"
_CATEGORY = "no table by category: `harness properties mmlu` and `bbh`, then `harness analyse`, correlations"

CONTENTS: tuple[Content, ...] = (
    Content("Figure 1A", "method: how brain alignment is computed", "not given", "a drawing"),
    Content("Figure 1B", "average brain alignment of tuned models against their bases, mean gain 6.2 %", "reproduced",
            f"{_PRINTED}: 5.98 % (6.2 is the mean of Figure 1C); scores with weights: {_PAPER_RUN}, comparisons"),
    Content("Figure 1B, error bars", "median absolute deviation over participants, here and elsewhere",
            "reproducible with weights", f"no values are printed; {_PAPER_RUN}: r_mad in model_scores"),
    Content("Figure 1C", "gain on each brain data set: 6.9, 8.0 and 3.8 %", "reproduced", _PRINTED),
    Content("Figure 1D", "ablation: brain alignment over epochs of tuning", "reproducible with weights", _ABLATION),
    Content("Figure 1E", "ablation: BBH over epochs (a panel that the caption does not mention)",
            "reproducible with weights", f"{_ABLATION}; `harness properties bbh`"),
    Content("Figure 2A", "brain alignment against MMLU, r 0.81; insets by data set", "reproduced",
            f"{_PRINTED}: 0.805 from scores with three digits; `harness analyse scores.csv`, correlations"),
    Content("Figure 2B", "brain alignment against BBH world knowledge, r 0.68", "reproducible with weights", _CATEGORY),
    Content("Figure 2C", "brain alignment against log10 of the parameters, r 0.95; insets by data set", "reproduced",
            f"{_PRINTED}; `harness analyse scores.csv`, correlations"),
    Content("Figure 3A", "behavioural alignment of tuned models against their bases", "reproduced",
            "`harness analyse scores.csv`, futrell2018; scores with weights: reading_scores"),
    Content("Figure 3B", "behavioural alignment against MMLU, p 0.76", "reproduced", _PRINTED),
    Content("Figure 3C", "behavioural alignment against log10 of the parameters, p 0.31", "reproduced", _PRINTED),
    Content("Figure 3D", "behavioural alignment against next-word loss, T5, p 0.54", "reproduced", _PRINTED),
    Content("Figure 3E", "behavioural alignment against next-word loss, LLaMA, p 0.21", "reproduced", _PRINTED),
    Content("Figure 4", "method: how brain alignment is computed", "not given", "a drawing"),
    Content("Figure 5", "method: how behavioural alignment is computed", "not given", "a drawing"),
    Content("Figure 6A", "Figure 2A with names of models", "reproduced", "as Figure 2A"),
    Content("Figure 6B", "Figure 2B with names of models", "reproducible with weights", "as Figure 2B"),
    Content("Figure 6C", "Figure 2C with names of models", "reproduced", "as Figure 2C"),
    Content("Figure 6D", "brain alignment against next-word loss, r -0.54", "reproducible with weights",
            "the losses of Table 7 give another sign, see the statements; next_word_scores, `harness analyse`"),
    Content("Figure 7A", "brain alignment against log10 of the parameters, all 25 models, r 0.92", "reproduced",
            _PRINTED),
    Content("Figure 7B", "brain alignment against next-word loss, all 25 models, r -0.54", "reproducible with weights",
            "no table has the losses of base models: next_word_scores, `harness analyse`"),
    Content("Figure 8A", "ablation: brain alignment over epochs, as Figure 1D", "reproducible with weights",
            "as Figure 1D"),
    Content("Figure 8B", "ablation: BBH over epochs, as Figure 1E", "reproducible with weights", "as Figure 1E"),
    Content("Figure 8C", "ablation: MMLU over epochs", "reproducible with weights",
            f"{_ABLATION}; `harness properties mmlu`"),
    Content("Figure 9A", "Figure 3B with names of models", "reproduced", "as Figure 3B"),
    Content("Figure 9B", "Figure 3C with names of models", "reproduced", "as Figure 3C"),
    Content("Figure 9C", "Figure 3D with names of models", "reproduced", "as Figure 3D"),
    Content("Figure 9D", "Figure 3E with names of models", "reproduced", "as Figure 3E"),
    Content("Table 1", "an example of Alpaca's training data", "not given", "an example, without results"),
    Content("Table 2", "correlations of brain alignment with MMLU, BBH and their categories; average accuracies",
            "reproducible with weights", f"overall scores: {_PRINTED}; categories: {_CATEGORY}"),
    Content("Table 3", "parameters and layers of the models", "reproduced", "`harness models --group paper`, `gpt2`"),
    Content("Table 4", "where the weights are published", "reproduced", "`harness models --group paper`, `gpt2`"),
    Content("Table 5", "brain alignment of all models", "reproducible with weights",
            f"{_PAPER_RUN}: model_scores, protocol paper", "5"),
    Content("Table 6", "noise ceilings of the brain data sets, mean 0.224", "reproduced",
            f"{_PRINTED} (mean of the published ceilings); from the recordings: ceiling in model_scores"),
    Content("Table 7", "next-word loss, MMLU and BBH of the tuned models", "reproducible with weights",
            "next_word_scores; `harness properties mmlu` and `bbh`", "7"),
    Content("Table 8", "linear predictivity, CKA and RSA of Gemma and LLaMA-2, base and tuned",
            "reproducible with weights", "`harness run appendix_j`: similarity_scores, protocol paper", "8"),
    Content("Table 9", "behavioural alignment of all models", "reproducible with weights",
            f"{_PAPER_RUN}: reading_scores", "9"),
    Content("Table 10", "noise ceiling of the reading times, 0.858", "reproduced",
            "computed from the readers of futrell2018: ceiling in reading_scores"),
)  # fmt: skip


# Table 8: ceiling-normalised linear predictivity, CKA, RSA. What CKA and RSA are divided by is not stated, nor which
# data sets they are averaged over; the CKA values above 1 are not possible for CKA itself.
TABLE_8: dict[str, tuple[float, float, float]] = {
    "gemma-2b": (0.76, 1.94, 0.63), "gemma-2b-it": (0.72, 2.44, 0.70),
    "gemma-7b": (0.90, 2.25, 0.62), "gemma-7b-it": (0.94, 2.55, 0.72),
    "llama-2-7b": (0.97, 1.81, 0.65), "llama-2-7b-chat": (1.02, 2.00, 0.63),
    "llama-2-13b": (1.08, 2.51, 0.68), "llama-2-13b-chat": (1.08, 2.77, 0.65),
}  # fmt: skip


def overview(figures: list[PrintedFigure], compared: pd.DataFrame | None) -> list[dict[str, str]]:
    """The list of figures and tables, with what was checked of each.

    Args:
        figures: statements of the paper and their values from its tables.
        compared: our scores beside the paper's, as `published.compare_scores`; None without ours.

    Returns:
        A row for each entry: item, status, here (how many statements agree with the paper's own tables, or how many
        of our models were compared), shows, by.
    """
    return [
        {
            "item": content.label, "status": content.status, "here": _here(content, figures, compared),
            "shows": content.shows, "by": content.by,
        }
        for content in CONTENTS
    ]  # fmt: skip


def _here(content: Content, figures: list[PrintedFigure], compared: pd.DataFrame | None) -> str:
    """What was checked of one entry; "" if nothing was."""
    if content.table and compared is not None:
        n_models = compared.loc[compared["table"] == content.table, "model"].nunique()
        return f"{n_models} models compared" if n_models else "no model in common"
    own = [figure for figure in figures if content.label in figure.where.split(", ")]
    n_agree = sum(figure.agrees for figure in own)
    return f"{n_agree} of {len(own)} statements agree" if own else ""
