{{/*
Connections to Kafka and Redis: variables, and files in /etc/projector.
All take (dict "root" $ "name" COMPONENT "servers" (list "kafka" "redis")).
*/}}

{{/* The user of a component at a server: (dict "root" $ "name" COMPONENT "server" "kafka"). */}}
{{- define "projector.user" -}}
{{- $own := index .root.Values .name (printf "%sUser" .server) -}}
{{- $own | default (index .root.Values .server "user") | toYaml -}}
{{- end -}}

{{/* What the component's own Secret holds; empty if the chart makes none. */}}
{{- define "projector.secretData" -}}
{{- range $server := .servers }}
{{- $user := include "projector.user" (dict "root" $.root "name" $.name "server" $server) | fromYaml }}
{{- if and $user.password (not $user.secret) }}
{{ $server }}-password: {{ $user.password | quote }}
{{- end }}
{{- with (index $.root.Values $server "ca" "pem") }}
{{ $server }}-ca.pem: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Sources of the projected volume in /etc/projector. */}}
{{- define "projector.sources" -}}
{{- $made := include "projector.secretData" . | fromYaml }}
{{- if $made }}
- secret:
    name: {{ include "projector.fullname" .root }}-{{ .name }}
    items:
      {{- range $key, $_ := $made }}
      - {key: {{ $key }}, path: {{ $key }}}
      {{- end }}
{{- end }}
{{- range $server := .servers }}
{{- $user := include "projector.user" (dict "root" $.root "name" $.name "server" $server) | fromYaml }}
{{- with $user.secret }}
- secret:
    name: {{ . | quote }}
    items:
      - {key: {{ $user.secretKey | default "password" | quote }}, path: {{ $server }}-password}
{{- end }}
{{- with $user.certificateSecret }}
- secret:
    name: {{ . | quote }}
    items:
      - {key: {{ $user.certificateKey | default "tls.crt" | quote }}, path: {{ $server }}-certificate.pem}
      - {key: {{ $user.privateKeyKey | default "tls.key" | quote }}, path: {{ $server }}-key.pem}
{{- end }}
{{- include "projector.caSource" (dict "ca" (index $.root.Values $server "ca") "path" (printf "%s-ca.pem" $server)) }}
{{- end }}
{{- end -}}

{{/* The source of a file with a CA: (dict "ca" VALUE "path" FILE). */}}
{{- define "projector.caSource" -}}
{{- range $kind := list "secret" "configMap" }}
{{- with (index $.ca $kind) }}
- {{ $kind }}:
    name: {{ . | quote }}
    items:
      - {key: {{ $.ca.key | default "ca.crt" | quote }}, path: {{ $.path }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Variables of the connections. */}}
{{- define "projector.connectionEnv" -}}
{{- range $server := .servers }}
{{- $user := include "projector.user" (dict "root" $.root "name" $.name "server" $server) | fromYaml }}
{{- $prefix := printf "PROJECTOR_%s" (upper $server) }}
{{- include (printf "projector.%sEnv" $server) $.root }}
{{- with $user.name }}
- {name: {{ $prefix }}_USERNAME, value: {{ . | quote }}}
{{- end }}
{{- if or $user.secret $user.password }}
- {name: {{ $prefix }}_PASSWORD_FILE, value: /etc/projector/{{ $server }}-password}
{{- end }}
{{- if (index $.root.Values $server "ca") }}
- {name: {{ $prefix }}_CA_FILE, value: /etc/projector/{{ $server }}-ca.pem}
{{- end }}
{{- if $user.certificateSecret }}
- {name: {{ $prefix }}_CERTIFICATE_FILE, value: /etc/projector/{{ $server }}-certificate.pem}
- {name: {{ $prefix }}_KEY_FILE, value: /etc/projector/{{ $server }}-key.pem}
{{- end }}
{{- end }}
{{- end -}}

{{- define "projector.kafkaEnv" -}}
{{- with .Values.kafka }}
- {name: PROJECTOR_KAFKA, value: {{ .brokers | quote }}}
- {name: PROJECTOR_KAFKA_SECURITY_PROTOCOL, value: {{ .securityProtocol }}}
{{- if hasPrefix "SASL_" .securityProtocol }}
- {name: PROJECTOR_KAFKA_SASL_MECHANISM, value: {{ .saslMechanism }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "projector.redisEnv" -}}
{{- with .Values.redis }}
{{- if .urlSecret }}
- name: PROJECTOR_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ .urlSecret | quote }}, key: {{ .urlSecretKey | quote }}}}
{{- else }}
- {name: PROJECTOR_REDIS_URL, value: {{ .url | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* The Secret of a component, if the chart makes one; `hook`: annotations of a hook. */}}
{{- define "projector.secret" -}}
{{- with (include "projector.secretData" . | fromYaml) -}}
---
apiVersion: v1
kind: Secret
metadata:
  {{- include "projector.metadata" $ | nindent 2 }}
  {{- with $.hook }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
type: Opaque
stringData:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The source of one file out of a Secret: (dict "secret" NAME "key" KEY "path" FILE). */}}
{{- define "projector.fileOfSecret" -}}
- secret:
    name: {{ .secret | quote }}
    items:
      - {key: {{ .key | quote }}, path: {{ .path }}}
{{- end -}}
