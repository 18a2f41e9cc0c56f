"""Multiple choice by a causal language model."""
