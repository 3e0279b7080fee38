"""GLSL of the renderer. Light is computed in linear colour; textures are uploaded as sRGB."""

SCENE_VERTEX = """
#version 330 core
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
layout(location = 2) in vec2 uv;
layout(location = 3) in vec4 color;
uniform mat4 view;
uniform mat4 projection;
out vec3 world_position;
out vec3 world_normal;
out vec2 uv_0;
out vec4 color_0;
out float z_depth;
void main() {
    vec4 local = view * vec4(position, 1.0);
    gl_Position = projection * local;
    world_position = position;
    world_normal = normal;
    uv_0 = uv;
    color_0 = color;
    z_depth = -local.z;
}
"""

SCENE_FRAGMENT = """
#version 330 core
in vec3 world_position;
in vec3 world_normal;
in vec2 uv_0;
in vec4 color_0;
in float z_depth;
uniform vec3 camera_position;
uniform vec4 base_factor;
uniform vec3 emissive_factor;
uniform float alpha_cutoff;
uniform sampler2D base_texture;
uniform sampler2D emissive_texture;
uniform vec3 key_direction;
uniform vec3 fill_direction;
uniform vec3 light_strength;
layout(location = 0) out vec4 out_color;
layout(location = 1) out float out_depth;
void main() {
    vec4 base = base_factor * color_0 * texture(base_texture, uv_0);
    if (base.a < alpha_cutoff) discard;
    vec3 toward = camera_position - world_position;
    vec3 n = normalize(world_normal);
    if (dot(n, toward) < 0.0) n = -n;
    float light = light_strength.x
        + light_strength.y * max(dot(n, key_direction), 0.0)
        + light_strength.z * max(dot(n, fill_direction), 0.0);
    vec3 linear = base.rgb * light + emissive_factor * texture(emissive_texture, uv_0).rgb;
    out_color = vec4(clamp(linear, 0.0, 1.0), 1.0);
    out_depth = z_depth;
}
"""

RESOLVE_VERTEX = """
#version 330 core
void main() {
    vec2 corner = vec2((gl_VertexID & 1) * 4 - 1, (gl_VertexID & 2) * 2 - 1);
    gl_Position = vec4(corner, 0.0, 1.0);
}
"""

RESOLVE_FRAGMENT = """
#version 330 core
uniform sampler2D color_samples;
uniform sampler2D depth_samples;
uniform int samples;
layout(location = 0) out vec4 out_color;
layout(location = 1) out float out_depth;
void main() {
    ivec2 corner = ivec2(gl_FragCoord.xy) * samples;
    vec4 total = vec4(0.0);
    for (int y = 0; y < samples; y++)
        for (int x = 0; x < samples; x++)
            total += texelFetch(color_samples, corner + ivec2(x, y), 0);
    vec3 mean = total.rgb / max(total.a, 1.0);
    vec3 low = mean * 12.92;
    vec3 high = 1.055 * pow(max(mean, vec3(0.0031308)), vec3(1.0 / 2.4)) - 0.055;
    out_color = vec4(mix(high, low, lessThanEqual(mean, vec3(0.0031308))), total.a / float(samples * samples));
    out_depth = texelFetch(depth_samples, corner + ivec2(samples / 2), 0).r;
}
"""
