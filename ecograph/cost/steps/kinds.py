"""What kind of work an operation is: operations of one kind run at one rate, by size."""

from __future__ import annotations

from functools import cache
from typing import Any

#: Work that takes no time beyond being called: views and questions about a tensor.
VIEW = "view"
#: An ``autograd.Function`` written in Python: what calling its forward and its backward takes, beside their operations.
FUNCTION = "function"
#: Functions written in Python that are called between operations.
PYTHON = "python"
#: Any operation, where what it takes to call it is meant.
CALL = "call"
#: Work of which nothing is known but its bytes.
UNCOUNTED = "uncounted"

#: kind -> the operations of torch that are of it, without "aten." and overload.
_KINDS: dict[str, str] = {
    "conv": "convolution _convolution convolution_overrideable mkldnn_convolution cudnn_convolution",
    "conv_backward": "convolution_backward convolution_backward_overrideable",
    "matmul": "mm addmm bmm baddbmm addbmm _addmm_activation linear matmul dot mv addmv addr _scaled_mm _grouped_mm",
    "matmul_backward": "linear_backward",
    "attention": """
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
        _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
        _scaled_dot_product_fused_attention_overrideable
        _flash_attention_forward _efficient_attention_forward""",
    "attention_backward": """
        _scaled_dot_product_flash_attention_for_cpu_backward _scaled_dot_product_flash_attention_backward
        _scaled_dot_product_efficient_attention_backward _scaled_dot_product_cudnn_attention_backward
        _scaled_dot_product_fused_attention_overrideable_backward
        _flash_attention_backward _efficient_attention_backward""",
    "recurrent": "mkldnn_rnn_layer _cudnn_rnn lstm gru rnn_tanh rnn_relu _thnn_fused_lstm_cell _thnn_fused_gru_cell",
    "recurrent_backward": """
        mkldnn_rnn_layer_backward _cudnn_rnn_backward _thnn_fused_lstm_cell_backward_impl
        _thnn_fused_gru_cell_backward""",
    "batch_norm": """
        native_batch_norm _native_batch_norm_legit _batch_norm_with_update cudnn_batch_norm miopen_batch_norm
        batch_norm_gather_stats_with_counts batch_norm_stats batch_norm_elemt _native_batch_norm_legit_functional""",
    "batch_norm_backward": """
        native_batch_norm_backward batch_norm_backward cudnn_batch_norm_backward miopen_batch_norm_backward
        batch_norm_backward_reduce batch_norm_backward_elemt""",
    "layer_norm": "native_layer_norm _fused_rms_norm native_group_norm _weight_norm_interface",
    "layer_norm_backward": """
        native_layer_norm_backward _fused_rms_norm_backward native_group_norm_backward
        _weight_norm_interface_backward""",
    "softmax": "_softmax _log_softmax _safe_softmax logsumexp",
    "softmax_backward": "_softmax_backward_data _log_softmax_backward_data",
    # A few additions, products or comparisons for each element.
    "pointwise": """
        add sub rsub mul div neg abs relu relu6 threshold threshold_backward leaky_relu leaky_relu_backward hardtanh
        hardtanh_backward hardswish hardswish_backward hardsigmoid hardsigmoid_backward clamp clamp_min clamp_max
        minimum maximum where masked_fill eq ne lt le gt ge logical_not logical_and logical_or logical_xor bitwise_not
        bitwise_and bitwise_or bitwise_xor square sign sgn reciprocal lerp addcmul addcdiv native_dropout_backward
        sqrt rsqrt floor ceil round trunc frac remainder fmod isnan isinf isfinite nan_to_num tril triu heaviside
        copysign floor_divide prelu _prelu_kernel _prelu_kernel_backward fmax fmin elu celu softshrink hardshrink
        isneginf isposinf signbit bitwise_left_shift bitwise_right_shift
        _amp_foreach_non_finite_check_and_unscale
        _fused_adamw _fused_adam _fused_sgd _fused_adagrad""",
    # A series or a table for each element.
    "transcendental": """
        exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh tanh_backward sigmoid
        sigmoid_backward gelu gelu_backward silu silu_backward mish mish_backward softplus softplus_backward erf erfc
        erfinv pow elu_backward log_sigmoid_forward log_sigmoid_backward glu glu_backward polar digamma lgamma
        xlogy softshrink_backward hardshrink_backward hypot logit logit_backward sinc""",
    "reduction": """
        sum mean amax amin max min argmax argmin var var_mean std std_mean norm linalg_vector_norm prod any all nansum
        count_nonzero aminmax cumsum cumprod cummax cummin logcumsumexp _cdist_forward _cdist_backward""",
    "pooling": """
        max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d avg_pool1d adaptive_max_pool2d
        _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d fractional_max_pool2d mkldnn_max_pool2d""",
    "pooling_backward": """
        max_pool2d_with_indices_backward max_pool3d_with_indices_backward avg_pool2d_backward avg_pool3d_backward
        adaptive_max_pool2d_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward""",
    "resampling": """
        upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d
        _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_linear1d upsample_trilinear3d
        upsample_nearest2d_backward upsample_nearest1d_backward upsample_nearest3d_backward
        _upsample_nearest_exact2d_backward upsample_bilinear2d_backward upsample_bicubic2d_backward
        upsample_linear1d_backward grid_sampler_2d grid_sampler_2d_backward reflection_pad2d
        reflection_pad2d_backward replication_pad2d reflection_pad1d replication_pad1d""",
    "embedding": "embedding embedding_renorm _embedding_bag",
    "embedding_backward": "embedding_dense_backward _embedding_bag_dense_backward",
    "loss": """
        nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward mse_loss mse_loss_backward
        binary_cross_entropy binary_cross_entropy_backward binary_cross_entropy_with_logits smooth_l1_loss
        smooth_l1_loss_backward huber_loss huber_loss_backward multi_margin_loss _ctc_loss _ctc_loss_backward
        soft_margin_loss""",
    "copy": """
        copy clone contiguous _to_copy cat stack constant_pad_nd roll flip repeat im2col col2im channel_shuffle
        pixel_shuffle pixel_unshuffle _unsafe_view_copy repeat_interleave slice_backward select_backward
        diagonal_backward unfold_backward _pack_padded_sequence _reshape_copy split_with_sizes_copy
        slice_scatter select_scatter tile index_fill lift_fresh_copy""",
    "indexing": """
        index_select gather scatter scatter_add index_add index_copy index index_put _index_put_impl
        masked_select masked_scatter nonzero take take_along_dim scatter_reduce index_select_backward _unsafe_index
        gather_backward _unsafe_index_put _unsafe_masked_index _unsafe_masked_index_put_accumulate bincount
        searchsorted bucketize unique_consecutive""",
    "fill": """
        zeros ones full zeros_like ones_like full_like fill zero arange new_zeros new_ones new_full linspace eye
        scalar_tensor one_hot tril_indices triu_indices""",
    "random": """
        bernoulli native_dropout rand rand_like randn randn_like uniform normal randint randperm random
        rand_like_generator multinomial exponential randint_like log_normal""",
    "sorting": "topk sort argsort kthvalue median nanmedian unique_dim _unique2",
    VIEW: """
        view _unsafe_view reshape _reshape_alias t transpose permute expand squeeze unsqueeze slice select split
        split_with_sizes chunk unbind as_strided detach alias narrow unfold diagonal view_as_real view_as_complex lift
        empty empty_like empty_strided new_empty new_empty_strided lift_fresh _local_scalar_dense item resize set_data
        is_same_size movedim
        sym_size sym_stride sym_numel real imag conj _conj _neg_view result_type is_nonzero set resize_as
        mT adjoint can_cast is_floating_point is_complex dim unsafe_split unsafe_split_with_sizes equal""",
}

KINDS: dict[str, str] = {name: kind for kind, names in _KINDS.items() for name in names.split()}


@cache
def name_of(func: Any) -> str:
    """Returns an operation's name without its overload, such as ``"aten.add"``."""
    schema = getattr(func, "_schema", None)  # an operation of higher order has none
    return f"higher_order.{func}" if schema is None else str(schema.name).replace("::", ".")


@cache
def kind_of(func: Any) -> str:
    """Returns the kind of work that an operation is, ``UNCOUNTED`` where nothing says so."""
    namespace, _, name = name_of(func).partition(".")
    if namespace in ("prim", "profiler"):
        return VIEW
    if namespace != "aten":
        return KINDS.get(f"{namespace}.{name}", UNCOUNTED)
    name = name.removeprefix("_foreach_")  # the same on several tensors
    kind = KINDS.get(name)
    if kind is None and name.endswith("_"):
        kind = KINDS.get(name.removesuffix("_"))  # in place
    return kind or (VIEW if func.is_view else UNCOUNTED)
