"""Whose work this is: the paper, what it rests on, and who said it first; as BibTeX and for sources of numbers.

`vaeprobe explain --bibtex` prints all of it, `vaeprobe explain METRIC --bibtex` what is behind one number.
"""

from __future__ import annotations

from dataclasses import dataclass

from vaeprobe._version import __version__

__all__ = ["PAPER", "WORKS", "Work", "bibtex", "behind", "software"]


@dataclass(frozen=True)
class Work:
    """A publication.

    Attributes:
        key: BibTeX key.
        authors: as BibTeX takes them.
        title, year: as published.
        named: how sources call it, without its year's brackets: `Gresele et al.`.
        where: journal or conference; "" for a preprint alone.
        arxiv: identifier; "" where there is none.
        note: what it is to this program.
    """

    key: str
    authors: str
    title: str
    year: int
    named: str
    where: str = ""
    arxiv: str = ""
    note: str = ""


PAPER = Work(
    "allen2024unpicking",
    "Allen, Carl",
    "Unpicking Data at the Seams: VAEs, Disentanglement and Independent Components",
    2024,
    "Allen",
    arxiv="2410.22559",
    note="Equations and theorems are numbered as in version 1; retitled Disentanglement as Identifiable Pushforward "
    "Factorisation (v7, 2026), whose conditions C1 and C2 are those of v6 and v7",
)
WORKS = (
    PAPER,
    Work(
        "lucas2019elbo",
        "Lucas, James and Tucker, George and Grosse, Roger and Norouzi, Mohammad",
        "Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse",
        2019,
        "Lucas et al.",
        "Advances in Neural Information Processing Systems",
        "1911.02469",
        "linear VAEs and PPCA; beta scales a Gaussian likelihood's variance",
    ),
    Work(
        "kumar2020implicit",
        "Kumar, Abhishek and Poole, Ben",
        "On Implicit Regularization in {$\\beta$}-VAEs",
        2020,
        "Kumar and Poole",
        "International Conference on Machine Learning",
        "2002.00041",
        "the posterior's covariance against the decoder's Jacobian; beta and variance",
    ),
    Work(
        "reizinger2022embrace",
        'Reizinger, Patrik and Gresele, Luigi and Brady, Jack and von K{\\"u}gelgen, Julius and Zietlow, Dominik and '
        'Sch{\\"o}lkopf, Bernhard and Martius, Georg and Brendel, Wieland and Besserve, Michel',
        "Embrace the Gap: VAEs Perform Independent Mechanism Analysis",
        2022,
        "Reizinger et al.",
        "Advances in Neural Information Processing Systems",
        "2206.02416",
        "self-consistency of encoder and decoder; beta and variance (Appendix A.3)",
    ),
    Work(
        "rolinek2019variational",
        "Rolinek, Michal and Zietlow, Dominik and Martius, Georg",
        "Variational Autoencoders Pursue PCA Directions (by Accident)",
        2019,
        "Rolinek et al.",
        "Conference on Computer Vision and Pattern Recognition",
        "1812.06775",
        "diagonal posteriors and orthogonal columns; distance to orthogonality",
    ),
    Work(
        "zietlow2021demystifying",
        "Zietlow, Dominik and Rolinek, Michal and Martius, Georg",
        "Demystifying Inductive Biases for (Beta-)VAE Based Architectures",
        2021,
        "Zietlow et al.",
        "International Conference on Machine Learning",
        "2102.06822",
        "what becomes of the axes when the data are perturbed",
    ),
    Work(
        "gresele2021independent",
        'Gresele, Luigi and von K{\\"u}gelgen, Julius and Stimper, Vincent and Sch{\\"o}lkopf, Bernhard and Besserve, Michel',
        "Independent mechanism analysis, a new concept?",
        2021,
        "Gresele et al.",
        "Advances in Neural Information Processing Systems",
        "2106.05200",
        "the ima contrast",
    ),
    Work(
        "galperin2025analyzing",
        'Galperin, Daniel and K{\\"o}the, Ullrich',
        "Analyzing Generative Models by Manifold Entropic Metrics",
        2025,
        "Galperin and Koethe",
        "International Conference on Artificial Intelligence and Statistics",
        "2410.19426",
        "entropies of latents, pairwise and total dependence",
    ),
    Work(
        "duan2020unsupervised",
        "Duan, Sunny and Matthey, Loic and Saraiva, Andre and Watters, Nick and Burgess, Christopher P. and Lerchner, "
        "Alexander and Higgins, Irina",
        "Unsupervised Model Selection for Variational Disentangled Representation Learning",
        2020,
        "Duan et al.",
        "International Conference on Learning Representations",
        "1905.12614",
        "agreement of models, UDR",
    ),
    Work(
        "horan2021when",
        "Horan, Daniella and Richardson, Eitan and Weiss, Yair",
        "When Is Unsupervised Disentanglement Possible?",
        2021,
        "Horan et al.",
        "Advances in Neural Information Processing Systems",
        note="local isometry and identifiability",
    ),
    Work(
        "burda2016importance",
        "Burda, Yuri and Grosse, Roger and Salakhutdinov, Ruslan",
        "Importance Weighted Autoencoders",
        2016,
        "Burda et al.",
        "International Conference on Learning Representations",
        "1509.00519",
        "active units",
    ),
    Work(
        "tipping1999probabilistic",
        "Tipping, Michael E. and Bishop, Christopher M.",
        "Probabilistic Principal Component Analysis",
        1999,
        "Tipping and Bishop",
        "Journal of the Royal Statistical Society B 61(3), 611-622",
        note="PPCA, its likelihood and EM",
    ),
    Work(
        "flury1986algorithm",
        "Flury, Bernard N. and Gautschi, Walter",
        "An Algorithm for Simultaneous Orthogonal Transformation of Several Positive Definite Symmetric Matrices to "
        "Nearly Diagonal Form",
        1986,
        "Flury and Gautschi",
        "SIAM Journal on Scientific and Statistical Computing 7(1), 169-184",
        note="the best rotation",
    ),
    Work(
        "pham2001joint",
        "Pham, Dinh Tuan",
        "Joint Approximate Diagonalization of Positive Definite Hermitian Matrices",
        2001,
        "Pham",
        "SIAM Journal on Matrix Analysis and Applications 22(4), 1136-1152",
        note="its log-det criterion",
    ),
    Work(
        "lachapelle2023additive",
        "Lachapelle, S{\\'e}bastien and Mahajan, Divyat and Mitliagkas, Ioannis and Lacoste-Julien, Simon",
        "Additive Decoders for Latent Variables Identification and Cartesian-Product Extrapolation",
        2023,
        "Lachapelle et al.",
        "Advances in Neural Information Processing Systems",
        "2307.02598",
        "block-diagonal Hessians of a decoder identify its latents",
    ),
    Work(
        "brady2024interaction",
        "Brady, Jack and von K{\\\"u}gelgen, Julius and Lachapelle, S{\\'e}bastien and Buchholz, Simon and Kipf, Thomas "
        "and Brendel, Wieland",
        "Interaction Asymmetry: A General Principle for Learning Composable Abstractions",
        2024,
        "Brady et al.",
        arxiv="2411.07784",
        note="the same by block-diagonal derivatives of higher order",
    ),
    Work(
        "buchholz2024robustness",
        'Buchholz, Simon and Sch{\\"o}lkopf, Bernhard',
        "Robustness of Nonlinear Representation Learning",
        2024,
        "Buchholz and Schölkopf",
        "International Conference on Machine Learning",
        "2503.15355",
        "near isometry identifies nearly",
    ),
)


def _entry(work: Work) -> str:
    kind = (
        "article" if work.where.startswith(("Journal", "SIAM")) else "inproceedings" if work.where else "misc"
    )
    place = {"article": "journal", "inproceedings": "booktitle"}.get(kind)
    fields = [("author", work.authors), ("title", f"{{{work.title}}}"), ("year", str(work.year))]
    if place:
        fields.append((place, work.where))
    if work.arxiv:
        fields += [("eprint", work.arxiv), ("archiveprefix", "arXiv")]
    if work.note:
        fields.append(("note", work.note))
    return _formatted(kind, work.key, fields)


def _formatted(kind: str, key: str, fields: list[tuple[str, str]]) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def software() -> str:
    """Return the BibTeX entry of this program."""
    fields = [
        ("author", "{The vaeprobe developers}"),
        ("title", "{vaeprobe: analyse trained decoders}"),
        ("version", __version__),
        ("year", "2026"),
        ("note", "Implements and extends arXiv:2410.22559"),
    ]
    return _formatted("software", "vaeprobe", fields)


def behind(source: str) -> tuple[Work, ...]:
    """Return the works that the source of a number names, by their arXiv identifier or by authors and year."""
    return tuple(w for w in WORKS if (w.arxiv and w.arxiv in source) or f"{w.named} ({w.year})" in source)


def bibtex(works: tuple[Work, ...] = WORKS) -> str:
    """Return BibTeX of this program and of publications, ready for a .bib file."""
    return "\n\n".join([software(), *map(_entry, works)]) + "\n"
