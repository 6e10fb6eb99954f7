"""The exact oracle: closed forms of a `FiniteMDP` in float64, the reference for every estimator and bound.

Policies are tables π(a|s), float `[S, A]`; θ are the logits `[S, A]` of a softmax policy, or the weights `[D]` of
a log-linear one with `features` `[S, A, D]`. Entering a terminal state ends the episode: with
γ_{s'} = γ·(1 − terminal(s')), P_π below means Σ_a π(a|s) P(s'|s,a) (1 − terminal(s')), and terminal states have
value 0 and no visits.

With γ = 1 a policy must reach a terminal state from everywhere: else `OracleError` names a state from which it does
not. The same error, naming state and action, refuses tables that are no policy, put weight on illegal actions, or
lie outside a reference policy's support.
"""

from actrix.lab.exact.bounds import (
    cpi_bound,
    cpi_step,
    kl,
    kl_bound,
    mixture,
    performance_difference,
    surrogate,
    total_variation,
)
from actrix.lab.exact.gradients import (
    fisher,
    natural_gradient,
    policy_gradient,
    regularised_gradient,
    score_gradient,
    softmax_policy,
)
from actrix.lab.exact.operators import (
    TRACES,
    clipped_policy,
    lambda_operator,
    off_policy_q_operator,
    vtrace_fixed_point,
    vtrace_operator,
)
from actrix.lab.exact.planning import (
    Solution,
    greedy,
    policy_iteration,
    regularised_q,
    regularised_value,
    soft_optimal,
    soft_policy,
    soft_value,
    uniform_policy,
    value_iteration,
)
from actrix.lab.exact.samples import (
    EstimatorMoments,
    Trajectories,
    conditional_moments,
    estimator_moments,
    finite_horizon_gradient,
    finite_horizon_q,
    finite_horizon_value,
    gradient_samples,
    moments,
    trajectories,
)
from actrix.lab.exact.values import (
    ROUNDING,
    SUM_TOLERANCE,
    ActionTable,
    OracleError,
    Policy,
    StateTable,
    advantage,
    backup,
    check_policy,
    performance,
    q_value,
    transition,
    value,
    visitation,
)

__all__ = [
    "ROUNDING",
    "SUM_TOLERANCE",
    "TRACES",
    "ActionTable",
    "EstimatorMoments",
    "OracleError",
    "Policy",
    "Solution",
    "StateTable",
    "Trajectories",
    "advantage",
    "backup",
    "check_policy",
    "clipped_policy",
    "conditional_moments",
    "cpi_bound",
    "cpi_step",
    "estimator_moments",
    "finite_horizon_gradient",
    "finite_horizon_q",
    "finite_horizon_value",
    "fisher",
    "gradient_samples",
    "greedy",
    "kl",
    "kl_bound",
    "lambda_operator",
    "mixture",
    "moments",
    "natural_gradient",
    "off_policy_q_operator",
    "performance",
    "performance_difference",
    "policy_gradient",
    "policy_iteration",
    "q_value",
    "regularised_gradient",
    "regularised_q",
    "regularised_value",
    "score_gradient",
    "soft_optimal",
    "soft_policy",
    "soft_value",
    "softmax_policy",
    "surrogate",
    "total_variation",
    "trajectories",
    "transition",
    "uniform_policy",
    "value",
    "value_iteration",
    "visitation",
    "vtrace_fixed_point",
    "vtrace_operator",
]
