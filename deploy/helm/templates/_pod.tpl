{{/*
The template of a pod: metadata and spec.

(dict "root" $ "name" COMPONENT "servers" LIST "args" LIST "port" NUMBER "probes" YAML "env" YAML
"files" YAML "volume" YAML "mount" YAML "account" NAME "restart" POLICY), the last six if needed.
`files` are further sources of the volume in /etc/projector. A liveness probe's own grace period is
short: a process that is stuck hands nothing over, and only delays its restart.
*/}}
{{- define "projector.pod" -}}
{{- $values := index .root.Values .name -}}
{{- $sources := printf "%s\n%s" (include "projector.sources" .) (.files | default "") | trim -}}
metadata:
  labels:
    {{- include "projector.labels" . | nindent 4 }}
    {{- with .root.Values.pods.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # New pods for a new password.
    checksum/secret: {{ include "projector.secretData" . | sha256sum }}
    {{- with .root.Values.secretsVersion }}
    allowed-agents-projector/secrets-version: {{ include "projector.text" . | quote }}
    {{- end }}
    {{- with .root.Values.pods.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: "{{ include "projector.fullname" .root }}{{ with .account }}-{{ . }}{{ end }}"
  automountServiceAccountToken: false
  # A Service called projector-... would set PROJECTOR_ variables.
  enableServiceLinks: false
  {{- with .restart }}
  restartPolicy: {{ . }}
  {{- end }}
  {{- with $values.terminationGracePeriodSeconds }}
  terminationGracePeriodSeconds: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "projector.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: {{ .name }}
      {{- include "projector.container" .root | nindent 6 }}
      args:
        {{- toYaml .args | nindent 8 }}
      env:
        {{- include "projector.env" . | nindent 8 }}
      {{- with .port }}
      ports:
        - {name: http, containerPort: {{ . }}}
      {{- end }}
      {{- with .probes }}
      {{- . | trim | nindent 6 }}
      {{- end }}
      {{- with $values.preStopSeconds }}
      lifecycle:
        preStop: {sleep: {seconds: {{ . }}}}
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if $sources }}
        - {name: files, mountPath: /etc/projector, readOnly: true}
        {{- end }}
        {{- with .mount }}
        {{- . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    {{- if $sources }}
    - name: files
      projected:
        defaultMode: 0440
        sources:
          {{- $sources | nindent 10 }}
    {{- end }}
{{- end -}}

{{/* Image and rights of a container. */}}
{{- define "projector.container" -}}
image: {{ include "projector.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
# `kubectl describe` then shows why a container ended.
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/*
Where pods run. Unless there are keys to spread over, Kubernetes' own defaults spread the pods.
*/}}
{{- define "projector.placement" -}}
{{- with .root.Values.pods.spreadOver }}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "projector.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with (index $.root.Values.pods $name) }}
{{ dict $name . | toYaml }}
{{- end }}
{{- end }}
{{- end -}}

{{/* All variables of a container. */}}
{{- define "projector.env" -}}
{{- include "projector.connectionEnv" . | trim }}
{{- range $name, $value := .root.Values.settings }}
- {name: {{ $name }}, value: {{ include "projector.text" $value | quote }}}
{{- end }}
{{- with .env }}
{{ . | trim }}
{{- end }}
{{- with .root.Values.pods.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
