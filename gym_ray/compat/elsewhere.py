"""Commands of NeMo Gym that have no counterpart of the same name, and what does their work here."""

from __future__ import annotations

#: By the names they have, newer and older.
ELSEWHERE: dict[tuple[str, ...], str] = {
    ("list benchmarks", "list environments", "ng_list_benchmarks"): "gym-ray env list",
    ("list agents", "list models", "list resources-servers", "search"): "gym-ray env list",
    ("env init", "ng_init_resources_server"): "gym-ray env new NAME",
    ("env resolve", "ng_dump_config"): "gym-ray config show CONFIG",
    ("env validate",): "gym-ray config check CONFIG",
    ("env test", "env publish", "ng_test", "ng_test_all"): "gym-ray env check PATH",
    ("env status", "ng_status"): "ray status, for the cluster that RAY_ADDRESS names",
    ("env packages", "env prefetch", "ng_pip_list"): "nothing: environments share one installation",
    ("ng_e2e_collect_rollouts",): "gym-ray compat dataset collate, whose DIR/SPLIT.jsonl is the "
    "input of gym-ray compat eval run",
    ("eval prepare", "ng_prepare_benchmark"): "gym-ray prepare CONFIG --output DIR",
    ("eval aggregate", "ng_aggregate_rollouts"): "gym-ray metrics RUN",
    ("eval profile", "ng_reward_profile"): "gym-ray metrics RUN --tasks FILE",
    ("eval reverify",): "gym-ray reverify RUN --output DIR",
    ("eval submit",): "scripts/submit.sh CONFIG",
    ("dataset render", "ng_materialize_prompts"): "gym-ray prepare CONFIG --output DIR, with "
    "`prompt` in the datasets of the config",
    ("dataset upload", "dataset migrate", "ng_upload_dataset_to_hf"): "gym-ray hub push",
    ("ng_upload_dataset_to_gitlab", "ng_gitlab_to_hf_dataset"): "gym-ray hub push",
    ("dataset download", "ng_download_dataset_from_hf"): "gym-ray hub pull",
    ("dataset rm", "ng_delete_dataset_from_gitlab", "ng_download_dataset_from_gitlab"): "the "
    "command of the store the dataset is in",
    ("dev test", "ng_dev_test"): "scripts/test.sh, in a checkout of gym-ray",
}
