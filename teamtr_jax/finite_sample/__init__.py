"""S8: what a finite sample of rollouts certifies about `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`, outcome reward in [0, 1].

B prompts are drawn independently, G rollouts of `π̂ⁱ⁻¹` on each; `π̂ⁱ` was trained on other data. A rollout has its reward R and,
for the updated agent's messages m, the log ratios `log ρ_m = log π̂ⁱ/π̂ⁱ⁻¹`. Path weight `Λ = ∏_m ρ_m`, `X(x) = x − 1 − log x`.
An estimator makes one number per prompt whose mean is at most the improvement (`samples`), a bound turns B such numbers into a
lower confidence limit for their mean (`limits`), and a certificate does both (`certificate`). `anytime` is where B is not fixed.
Everything here is NumPy on the host, in float64; leading axes are independent samples.
"""

from teamtr_jax.finite_sample.anytime import (
    AnytimeState,
    anytime_capital,
    anytime_certificate,
    anytime_log_capital,
    anytime_start,
    anytime_update,
)
from teamtr_jax.finite_sample.certificate import (
    ESTIMATORS,
    FALSE_ALARM,
    Certificate,
    finite_sample_certificate,
    log_evidence,
    two_sample_certificate,
    weight_evidence,
)
from teamtr_jax.finite_sample.group_norm import group_normalised_weight
from teamtr_jax.finite_sample.limits import BOUNDS, bernstein_bound, betting_bound, betting_log_capital
from teamtr_jax.finite_sample.mismatch import mismatch_certificate, mismatch_sample
from teamtr_jax.finite_sample.samples import (
    Sample,
    bridge_sample,
    clipped_sample,
    difference_sample,
    log_sample,
    message_sample,
    path_sample,
    tail_constants,
    truncated_sample,
)

__all__ = ["ESTIMATORS", "BOUNDS", "Sample", "Certificate", "finite_sample_certificate", "two_sample_certificate",
           "message_sample", "log_sample", "path_sample", "truncated_sample", "clipped_sample", "difference_sample",
           "bridge_sample", "tail_constants", "bernstein_bound", "betting_bound", "betting_log_capital",
           "mismatch_certificate", "mismatch_sample", "group_normalised_weight", "log_evidence", "weight_evidence", "FALSE_ALARM",
           "AnytimeState", "anytime_start", "anytime_update", "anytime_certificate", "anytime_capital",
           "anytime_log_capital"]  # fmt: skip
