"""Where a generator's pictures differ from photographs by frequency: up-sampling leaves its mark there.

The azimuthal average of the power spectrum is from Durall, Keuper and Keuper, "Watch your Up-Convolution: CNN Based
Generative Deep Neural Networks are Failing to Reproduce Spectral Distributions" (CVPR 2020, arXiv:2003.01826).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BAND = (0.1, 0.9)  # quantiles over the pictures
# Rounding to 8 bits is white noise of power 1 / (12 * 255^2) = 1.3e-6; what lies far below it is no picture.
_FLOOR = 1e-8
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's grey
_REAL, _FAKE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette, which stays apart for colour-blind readers


@dataclass(frozen=True)
class MeanSpectrum:
    """Mean over pictures of the azimuthally averaged log power, and how far single pictures lie around it."""

    frequencies: Floats  # [F], cycles per pixel, above 0 and up to 0.5
    mean: Floats  # [F], log10 of the power
    low: Floats  # [F], the quantiles of BAND over the pictures
    high: Floats
    pictures: int


def azimuthal_log_power(pictures: NDArray[np.uint8]) -> Floats:
    """Log power by frequency, averaged over all directions, of each picture in grey.

    With the discrete Fourier transform F(u, v) of a picture I(x, y) of S x S pixels in [0, 1] (Durall et al. 2020,
    equations 1 and 2, with the sum over pixels of the spectrum in place of their integral over the angle):

        F(u, v) = sum_xy exp(-2 pi i (ux + vy) / S) I(x, y)
        A(k)    = mean of log10(|F(u, v)|^2 / S^2) over all (u, v) with round(sqrt(u^2 + v^2)) = k,   k = 1 .. S / 2

    The logarithm is taken before the average, so that one bright line does not outweigh its ring. Divided by S^2, white
    noise of variance s^2 has the expected power s^2 at every frequency and size. The corners beyond k = S / 2,
    which only slanted waves reach, are left out, and so is the mean brightness, k = 0.

    Args:
        pictures: uint8 [N, S, S, 3] RGB, S even.

    Returns:
        float64 [N, S / 2]; column k - 1 belongs to k / S cycles per pixel.
    """
    size = pictures.shape[1]
    rings = _rings(size)
    counts = np.bincount(rings.ravel())
    rows = []
    for picture in pictures:
        grey = (picture @ _LUMA) / 255.0
        power = np.abs(np.fft.fft2(grey)) ** 2 / size**2
        total = np.bincount(rings.ravel(), weights=np.log10(power + _FLOOR).ravel())
        rows.append((total / counts)[1 : size // 2 + 1])
    return np.stack(rows) if rows else np.zeros((0, size // 2))


def mean_spectrum(pictures: NDArray[np.uint8]) -> MeanSpectrum:
    """The mean of `azimuthal_log_power` over pictures, with the band that holds four pictures of five.

    Args:
        pictures: uint8 [N, S, S, 3] RGB, N from 1.
    """
    spectra = azimuthal_log_power(pictures)
    low, high = np.quantile(spectra, BAND, axis=0)
    size = pictures.shape[1]
    return MeanSpectrum(np.arange(1, size // 2 + 1) / size, spectra.mean(axis=0), low, high, len(pictures))


def high_frequency_gap(real: MeanSpectrum, fake: MeanSpectrum) -> float:
    """Mean difference fake - real in log10 power over the upper third of frequencies.

    0 is a faithful generator; 0.3 is twice the power there (grain), -0.3 half of it (blur).
    """
    upper = real.frequencies > 0.5 * 2 / 3
    return float((fake.mean - real.mean)[upper].mean())


def spectra_figure(real: MeanSpectrum, fake: MeanSpectrum, title: str) -> Figure:
    """Both mean spectra with their bands, and below them their difference, frequency by frequency."""
    figure = Figure(figsize=(7.0, 6.4), dpi=100, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    for spectrum, name, colour, dash in ((real, "real", _REAL, "-"), (fake, "fake", _FAKE, "--")):
        axes.fill_between(spectrum.frequencies, spectrum.low, spectrum.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            spectrum.frequencies,
            spectrum.mean,
            dash,
            color=colour,
            linewidth=2,
            label=f"{name} (n = {spectrum.pictures})",
        )
    axes.set(ylabel="log10 power, mean over angles", title=title)
    axes.legend(title="mean, and the band of 80 % of pictures", frameon=False)
    below.axhline(0.0, color="#666666", linewidth=0.8)
    below.plot(real.frequencies, fake.mean - real.mean, color="black", linewidth=2)
    below.axvspan(0.5 * 2 / 3, 0.5, color="#000000", alpha=0.06, linewidth=0)
    below.set(
        xlabel="frequency, cycles per pixel",
        ylabel="fake - real",
        xlim=(0, 0.5),
        title=f"upper third: {high_frequency_gap(real, fake):+.3f} on average",
    )
    below.title.set_fontsize(10)
    for each in (axes, below):
        each.grid(visible=True, color="#dddddd", linewidth=0.6)
        each.spines[["top", "right"]].set_visible(False)
    return figure


def _rings(size: int) -> NDArray[np.int64]:
    """[S, S], the rounded distance of each frequency of `fft2` from zero, in cycles per picture."""
    axis = np.fft.fftfreq(size, 1 / size)
    return np.rint(np.hypot(axis[:, None], axis[None, :])).astype(np.int64)
