"""The counterparts of keys of LLaMA-Factory, axolotl and TRL in a recipe, and why some have none.

Both the error messages and docs/recipe.md use this one table. Names that transformers has too are in
training_arguments.py.
"""

from shardtune.recipe.counterparts.training_arguments import Counterpart, Names

_QUANTIZATION = Counterpart("model.lora.quantize_base", "nf4, which is QLoRA with double quantization, or int8")
_OPTIMIZER = Counterpart(
    None,
    "not supported: the optimizer is AdamW (optim.kind). To save its memory: optim.states=bf16, "
    "engine.deepspeed=zero2_offload or zero3, or model.lora",
)
_NO_PREFERENCES = Counterpart(
    None, "remove it: this is always supervised fine-tuning; preferences and rewards are not supported"
)
_NO_VARIANT = Counterpart(None, "not supported: adapters are plain LoRA (model.lora)")
_NO_KERNEL = Counterpart(None, "not supported; model.attention chooses the attention implementation")
_NO_MEDIA = Counterpart(None, "not supported: rows are texts")
_REPLIES = Counterpart("task.train_on", "for chat: prompts never have a loss; last takes only the last reply")
_HUB_ACCESS = Counterpart(None, "the hub is used as by the hf command: log in with it, or set HF_TOKEN")
_TEMPLATE = Counterpart("task.chat_template", "for chat: chatml, llama3, gemma, zephyr; null is the model's own")
_PACKING = Counterpart("data.packing", "auto, on or off; packed rows never attend to each other")
_DTYPE = Counterpart("engine.precision")
_BY_TOKENIZER = Counterpart(
    None, "the tokenizer's own special tokens are used; a task.chat_template adds those it needs"
)

OTHER_TOOLS: tuple[Names, ...] = (
    Names(("base_model", "model_name"), Counterpart("model.path")),
    Names(("revision_of_model", "base_model_revision"), Counterpart("model.revision")),
    Names(
        ("flash_attention", "flash_attn", "flex_attention", "sdp_attention", "eager_attention"),
        Counterpart("model.attention"),
    ),
    Names(("xformers_attention", "s2_attention", "shift_attn", "sage_attention"), _NO_KERNEL),
    Names(("disable_gradient_checkpointing",), Counterpart("model.activation_checkpointing")),
    Names(
        ("finetuning_type", "adapter"),
        Counterpart("model.lora", "without it all weights are trained; {} uses the defaults"),
    ),
    Names(("lora_rank",), Counterpart("model.lora.r")),
    Names(("lora_target", "lora_target_linear"), Counterpart("model.lora.targets")),
    Names(("additional_target",), Counterpart("model.lora.train_whole")),
    Names(
        ("use_dora", "use_rslora", "pissa_init", "loraplus_lr_ratio", "lora_fan_in_fan_out", "peft_use_dora"),
        _NO_VARIANT,
    ),
    Names(
        ("adapter_name_or_path", "lora_model_dir"),
        Counterpart(None, "not supported: merge the adapters first, as shardtune export --merge-lora does"),
    ),
    Names(
        ("freeze_trainable_layers", "freeze_trainable_modules", "unfrozen_parameters"),
        Counterpart("model.freeze", 'names what is frozen, as in [embeddings, "layers:0-5"]; all else is trained'),
    ),
    Names(
        (
            "load_in_4bit", "load_in_8bit", "quantization_bit", "quantization_method", "gptq", "bnb_4bit_quant_type",
            "bnb_4bit_compute_dtype", "use_bnb_nested_quant", "double_quantization",
        ),
        _QUANTIZATION,
    ),
    Names(
        ("dataset", "datasets", "dataset_name", "train_dataset"),
        Counterpart("data.train", "a file, folder, glob or hf:owner/name, or a list of these"),
    ),
    Names(("eval_dataset", "test_datasets", "dataset_test_split"), Counterpart("data.dev")),
    Names(
        ("dataset_dir", "dataset_train_split", "dataset_config"),
        Counterpart("data.train", "as {path: hf:owner/name, subset: …, split: …}, or the path of files"),
    ),
    Names(("val_size", "val_set_size"), Counterpart("data.dev", "a share of the training rows, as {fraction: 0.05}")),
    Names(
        ("max_samples", "eval_max_samples", "max_train_samples"),
        Counterpart(
            None, "not supported for files; of a data set on the hub: {path: hf:owner/name, split: 'train[:1000]'}"
        ),
    ),
    Names(
        ("mix_strategy", "interleave_probs"),
        Counterpart("data.train", "each item of the list may have a weight, as {path: a.jsonl, weight: 0.5}"),
    ),
    Names(("dataset_text_field", "text_column", "label_column_name"), Counterpart("data.columns", "as {text: review}")),
    Names(("cutoff_len", "sequence_len", "max_source_length", "block_size"), Counterpart("data.max_tokens")),
    Names(("sample_packing", "neat_packing", "eval_sample_packing", "eval_packing", "packing_strategy"), _PACKING),
    Names(
        ("pad_to_sequence_len", "pad_to_max_length", "pad_to_multiple_of", "padding_free"),
        Counterpart("data.length_window", "batches are padded to their longest row only, or packed (data.packing)"),
    ),
    Names(("dataset_prepared_path", "overwrite_cache", "tokenized_path"), Counterpart("data.cache_dir")),
    Names(("dataset_processes",), Counterpart("data.prepare_processes")),
    Names(("template", "chat_template_path"), _TEMPLATE),
    Names(("default_system", "default_system_message"), Counterpart("task.system")),
    Names(
        ("train_on_inputs", "train_on_prompt", "mask_history", "assistant_only_loss", "completion_only_loss"), _REPLIES
    ),
    Names(("stage", "rl", "pref_beta", "pref_loss", "reward_model", "dpo_beta"), _NO_PREFERENCES),
    Names(("micro_batch_size", "eval_batch_size"), Counterpart("train.micro_batch_tokens", "in tokens, not rows")),
    Names(
        ("early_stopping_patience", "early_stopping_steps"), Counterpart("train.patience", "in evaluations on dev")
    ),
    Names(("early_stopping_threshold",), Counterpart("train.min_delta", "with train.patience")),
    Names(("evals_per_epoch",), Counterpart("train.eval_every_steps", "null evaluates at the end of each epoch")),
    Names(("saves_per_epoch",), Counterpart("checkpoint.every_steps", "null saves after every evaluation")),
    Names(("optimizer",), Counterpart("optim.kind")),
    Names(("lr_scheduler",), Counterpart("optim.schedule", "linear, cosine, constant or wsd")),
    Names(("cosine_min_lr_ratio", "min_lr", "min_lr_rate"), Counterpart("optim.min_lr_ratio", "relative to optim.lr")),
    Names(("adafactor", "use_galore", "use_apollo", "use_badam", "use_muon", "use_adam_mini"), _OPTIMIZER),
    Names(("pure_bf16", "torch_dtype", "dtype", "compute_dtype", "bfloat16", "float16"), _DTYPE),
    Names(("ds_config", "zero_stage", "deepspeed_config"), Counterpart("engine.deepspeed")),
    Names(("wandb_project",), Counterpart("report.project")),
    Names(("wandb_name", "wandb_run_name"), Counterpart("report.name")),
    Names(("wandb_mode", "use_wandb"), Counterpart("report.wandb")),
    Names(("wandb_entity",), Counterpart("report.entity")),
    Names(("wandb_tags",), Counterpart("report.tags")),
    Names(("wandb_notes",), Counterpart("report.notes")),
    Names(("wandb_log_model",), Counterpart("report.artifacts")),
    Names(
        ("wandb_watch", "wandb_run_id"),
        Counterpart(
            None, "no key of the recipe; wandb reads its own variables (WANDB_ENTITY, WANDB_TAGS, …), which count here"
        ),
    ),
    Names(
        ("use_tensorboard", "use_mlflow"),
        Counterpart("report.also", "a list of trackers, such as [tensorboard]"),
    ),
    Names(
        ("plot_loss", "use_swanlab"),
        Counterpart(
            None,
            "metrics are in RUN_DIR/metrics.jsonl and report.html, and in W&B (report.wandb); shardtune replay sends a "
            "run to other trackers",
        ),
    ),
    Names(
        ("loss_watchdog_threshold", "loss_watchdog_patience"),
        Counterpart("faults.spike_deviations", "faults.on_spike says what happens then"),
    ),
    Names(("auto_resume_from_checkpoints",), Counterpart(None, "always on: the same command again resumes")),
    Names(
        ("predict_with_generate", "do_sample", "top_p", "temperature"),
        Counterpart(None, "evaluations take the likeliest token (task.generate_dev_rows); shardtune chat samples"),
    ),
    Names(
        ("special_tokens", "new_special_tokens", "tokens", "eos_token", "pad_token", "resize_vocab", "tokenizer_type"),
        _BY_TOKENIZER,
    ),
    Names(
        ("model_type", "model_init_kwargs", "base_model_config", "rope_scaling", "overrides_of_model_config"),
        Counterpart(None, "the model's config.json decides"),
    ),
    Names(
        ("trust_remote_code",),
        Counterpart(None, "not supported: code that a model or a data set brings along is never run"),
    ),
    Names(
        ("strict", "plugins"),
        Counterpart(None, "remove it: recipes are always checked as a whole, and there are no plugins"),
    ),
    Names(
        ("eval_table_size", "eval_max_new_tokens"),
        Counterpart("task.show_replies", "for chat, and task.max_new_tokens for their length"),
    ),
    Names(("hf_use_auth_token", "hf_hub_token", "use_auth_token"), _HUB_ACCESS),
    Names(("image_max_pixels", "video_max_pixels", "image_dir", "media_dir"), _NO_MEDIA),
    Names(
        ("enable_liger_kernel", "liger_rope", "liger_rms_norm"),
        Counterpart("engine.kernels", "liger; auto uses it where it is installed and knows the model"),
    ),
    Names(("use_unsloth", "lora_mlp_kernel", "lora_qkv_kernel"), Counterpart(None, "not supported")),
    Names(
        ("context_parallel_size", "tensor_parallel_size", "sequence_parallel_degree", "expert_parallel_size"),
        Counterpart(None, "not supported: ranks share the rows, and engine.deepspeed=zero3 shards the weights"),
    ),
)  # fmt: skip

OTHER_COUNTERPARTS: dict[str, Counterpart] = {name: row.ours for row in OTHER_TOOLS for name in row.names}
