"""Models in the manner of Llama and Qwen 3, with experts or without: Bonsai is one of them.

Most families begin with the same rules, and put their own before them.
"""

from binq.models.family import Family, Rule

NORM = "norms are small and sensitive"
BIAS = "biases are small"
ROUTER = "a router chooses experts: small and sensitive"
EMBEDDING = "embeddings stay as they are unless asked for"
HEAD = "the output head stays as it is unless asked for"
VISION = "the vision part stays as it is"
AUDIO = "the audio part stays as it is"
MTP = "the module that drafts further tokens stays as it is"
SMALL = "small and sensitive"

EMBEDDINGS = (
    Rule(r"(^|\.)embed_tokens\.weight$", "embedding", EMBEDDING),
    Rule(r"(^|\.)lm_head\.weight$", "head", HEAD),
)
NORMS = (Rule(r"norm(_?\d)?\.(weight|bias)$", "norm", NORM),)
BIASES = (Rule(r"(\.|_)bias$", "bias", BIAS),)
ATTENTION = (Rule(r"\.self_attn\.([qkvo]|qkv)_proj\.weight$", "linear"),)
MLP = (Rule(r"\.mlp\.(gate|up|down|gate_up)_proj\.weight$", "linear"),)
EXPERTS = (
    Rule(r"\.mlp\.experts\.\d+\.(gate|up|down)_proj\.weight$", "expert"),
    Rule(r"\.mlp\.(experts|switch_mlp)\.(gate_up|gate|up|down)_proj(\.weight)?$", "expert"),
    Rule(r"\.mlp\.shared_experts?\.(gate|up|down)_proj\.weight$", "linear"),
    Rule(r"\.block_sparse_moe\.experts\.\d+\.w[123]\.weight$", "expert"),
)
ROUTERS = (
    Rule(r"\.mlp\.gate\.(weight|bias|e_score_correction_bias)$", "router", ROUTER),
    Rule(r"\.mlp\.shared_expert_gate\.weight$", "router", ROUTER),
    Rule(r"\.block_sparse_moe\.gate\.weight$", "router", ROUTER),
)
DENSE = (*EMBEDDINGS, *NORMS, *ROUTERS, *BIASES, *ATTENTION, *MLP, *EXPERTS)

FAMILY = Family(
    name="dense",
    model_types=(
        "apertus", "arcee", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2",
        "gemma3_text", "glm", "glm4", "glm4_moe", "granite", "llama", "ministral", "ministral3",
        "mistral", "mixtral", "olmo", "olmo2", "olmo3", "olmoe", "phi3", "qwen2", "qwen2_moe",
        "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm",
    ),
    rules=DENSE,
)  # fmt: skip
